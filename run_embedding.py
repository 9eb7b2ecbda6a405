"""Train and use a bilingual text encoder: `python run_embedding.py --expid BiEncoder_en_de --stage all`."""

from bilingual_embedding.cli import run_embedding_main

if __name__ == "__main__":
    run_embedding_main()

"""Show why a trained model ranks as it does: `python run_explain.py --expid QIN_demo --row 0 --out row.png`."""

from fuxictr_multimodal.cli.explain import run_explain_main

if __name__ == "__main__":
    run_explain_main()

"""Score rows with a trained experiment: `python run_predict.py --expid QIN_MicroLens_1M --out scores.parquet`."""

from fuxictr_multimodal.cli.predict import run_predict_main

if __name__ == "__main__":
    run_predict_main()

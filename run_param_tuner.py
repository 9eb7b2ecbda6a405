"""Run the trials of a tuner file: `python run_param_tuner.py --config config/tuner/QIN_demo_tuner.yaml --gpu -1 -1`."""

from fuxictr_multimodal.cli.tuner import run_param_tuner_main

if __name__ == "__main__":
    run_param_tuner_main()

"""Compare experiments: `python run_leaderboard.py --dataset Synthetic_demo --out leaderboard.html`."""

from fuxictr_multimodal.cli.leaderboard import run_leaderboard_main

if __name__ == "__main__":
    run_leaderboard_main()

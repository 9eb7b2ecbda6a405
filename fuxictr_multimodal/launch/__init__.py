"""Many runs: experiments and seeds side by side, and tuning."""

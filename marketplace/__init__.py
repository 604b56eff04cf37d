"""Hold the rules of the market in Python: codec, scoring, payout, proof and the chain client."""

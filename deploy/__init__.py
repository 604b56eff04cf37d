"""Run the market: toolchain, devnet, deployment, demo and the `tribute` command."""

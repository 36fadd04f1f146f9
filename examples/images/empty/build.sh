#!/bin/sh
# Puts the empty directory into the repository and prints its CID: the input of programs that need
# none. IPFS_EXEC names the program, `ipfs-exec` unless set.
set -eu
exec "${IPFS_EXEC:-ipfs-exec}" mkdir

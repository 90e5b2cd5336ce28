#!/bin/sh
# Two machines: the network on one, the workers on another. Here both are this one, and talk over its loopback address.
#
#     sh examples/two_machines.sh [GAMES] [PORT]
#
# With two machines: bind tcp://0.0.0.0:PORT, copy keys/clients/far to the other machine, connect to tcp://ADDRESS:PORT.
set -eu
games=${1:-200}
endpoint=tcp://127.0.0.1:${2:-7447}

# Once: a key pair for the server, one for the other machine, and the list of who is let in.
grove keys keys --clients far

# On the machine with the accelerator.
grove serve --game connect_four --bind "$endpoint" --keys keys &
server=$!
trap 'kill $server && wait $server' EXIT

# On the machine with many cores. It waits for the server, and asks it which game is played.
grove work --connect "$endpoint" --keys keys/clients/far --games "$games" --simulations 50 --out runs/far
grove data count runs/far/games

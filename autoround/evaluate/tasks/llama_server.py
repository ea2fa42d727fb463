"""Run as a module: llama.cpp's server on a GGUF file, until the standard input is closed.

    python -m autoround.evaluate.tasks.llama_server FILE.gguf TOKENS THREADS

A process of its own, because llama.cpp ends the process where it cannot load a file. The address
is the first line of its standard output.
"""

from __future__ import annotations

import importlib
import sys


def main() -> None:
    """Serve on the loopback interface."""
    path, context, threads = sys.argv[1:]
    xllamacpp = importlib.import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx = params.n_batch = int(context)
    params.n_parallel = 1
    params.cpuparams.n_threads = int(threads)
    params.warmup = False
    params.fit_params = False
    # Weights repacked for AMX end in a crash where the system does not let programs use it.
    params.no_extra_bufts = True
    params.port = 0
    params.verbosity = 1
    server = xllamacpp.Server(params)
    sys.stdout.write(server.listening_address + "\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()

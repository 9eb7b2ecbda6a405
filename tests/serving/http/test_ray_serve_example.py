"""The example of Ray Serve: two replicas rank, and take a new folder while they are asked."""

import os
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest

from tests.helpers.exported_folder import expected, made_item, write_folder
from tests.helpers.served import Server

pytest.importorskip("ray.serve", reason="Ray Serve needs pip install 'ray[serve]'")

# The cluster is one of its own, which ends with the process.
SCRIPT = """
import sys
from pathlib import Path
import ray
from ray import serve
import ray_serve
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
serve.start(http_options={"port": int(sys.argv[1])})
for line in sys.stdin:
    ray_serve.deploy(Path(line.strip()), replicas=2, threads=1)
    print("deployed", flush=True)
"""


@pytest.mark.slow
def test_replicas_take_a_new_folder_without_a_failed_request(repository, tmp_path):
    catalogues = [{f"i{i}": made_item(1000 * turn + i) for i in range(20)} for turn in range(2)]
    folders = [write_folder(tmp_path / f"model_{turn}", items) for turn, items in enumerate(catalogues)]
    answers = [expected(list(items.values()), user="ann", price=1.0) for items in catalogues]
    body = {"context": {"user_id": "ann", "price": 1}, "candidates": list(catalogues[0])}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = os.pathsep.join([str(repository), str(repository / "examples")])
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(port)], env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    server, stopped, seen, failed = Server(port), threading.Event(), set(), []

    def deploy(folder):
        process.stdin.write(f"{folder}\n")
        process.stdin.flush()
        while (line := process.stdout.readline()) != "deployed\n":
            assert line, "the script has ended"

    def ask():
        while not stopped.is_set():
            reply = server.call("POST", "/rank", body)
            found = []
            if reply.status == 200:
                scores = dict(zip(reply.content["items"], reply.content["scores"], strict=True))
                ordered = [scores[item] for item in body["candidates"]]
                found = [turn for turn, right in enumerate(answers) if np.allclose(ordered, right, atol=1e-5)]
            seen.update(found)
            if not found:
                failed.append(reply)

    try:
        deploy(folders[0])
        reply = server.call("POST", "/rank", {**body, "k": -1})
        assert (reply.status, reply.content) == (422, {"error": "k must be 1 or more"})
        askers = [threading.Thread(target=ask) for _ in range(2)]
        for asker in askers:
            asker.start()
        deploy(folders[1])
        stopped.set()
        for asker in askers:
            asker.join(20)
        assert server.call("POST", "/rank", body).status == 200
    finally:
        stopped.set()
        process.stdin.close()
        process.wait(60)
        process.stdout.close()
    assert failed == []
    assert seen == {0, 1}

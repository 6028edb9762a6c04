"""A server with one finished prediction job, whose files it makes: nothing but what is measured.

Run as a process of its own, so that neither side shares its interpreter with the server.
"""

import json
import re
import sys
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

REPORT = {
    "status": "DONE",
    "tracking_url": "http://server/job",
    "start_time": "2026-01-01T00:00:00",
}
OPTIONS = {"num_workers": 1}
CONFIG = {"job_tags": {}, "model_training_job_id": "trainingjob-1", "predict_options": OPTIONS}


def make_files(folder: Path, files: int, rows: int) -> None:
    """Scores of a binary classification, as a large job writes them."""
    random = np.random.default_rng(7)
    for index in range(files):
        score = random.beta(1, 8, rows)
        anchor = np.full(rows, np.datetime64("2026-01-01", "us"))
        table = pa.table(
            {
                "ENTITY": np.arange(index * rows, (index + 1) * rows),
                "ANCHOR_TIMESTAMP": anchor,
                "TARGET_PRED": score > 0.5,
                "False_PROB": 1 - score,
                "True_PROB": score,
            }
        )
        pq.write_table(table, folder / f"{index}.parquet")


def serve(folder: Path, files: int, rows: int) -> None:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            origin = f"http://{self.headers['Host']}"
            if path.startswith("/files/"):
                return self.send_file(folder / Path(path).name)
            if path.endswith("/get_prediction_df_urls"):
                urls = [f"{origin}/files/{i}.parquet" for i in range(files)]
                return self.send({"prediction_partitions": urls})
            if path.startswith("/api/v1/prediction_jobs/"):
                result = {"num_entities_predicted": files * rows}
                job = {"job_id": "job", "job_status_report": REPORT, "tags": {}, "result": result}
                return self.send({**job, "created_at": "2026-01-01T00:00:00", "config": CONFIG})
            return self.send([] if path.endswith("/connectors") else {})

        def send(self, value: object) -> None:
            content = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def send_file(self, path: Path) -> None:
            size = path.stat().st_size
            begin, end = 0, size
            if wanted := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
                begin = int(wanted[1]) if wanted[1] else size - int(wanted[2])
                end = int(wanted[2]) + 1 if wanted[1] and wanted[2] else size
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(end - begin))
            self.end_headers()
            with path.open("rb") as file:
                # The kernel copies: the server must not be what is measured.
                self.wfile.flush()
                self.connection.sendfile(file, begin, end - begin)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}/api", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    files, rows = map(int, sys.argv[1:])
    with tempfile.TemporaryDirectory() as name:
        make_files(Path(name), files, rows)
        serve(Path(name), files, rows)

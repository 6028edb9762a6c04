"""A server with finished prediction jobs, whose files it makes: nothing but what is measured.

The job `files-32-of-500000` has 32 files of 500,000 rows, and so on; small ones repeat the same few.

Run as a process of its own, so that neither side shares its interpreter with the server.
"""

import json
import re
import sys
import time
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
TIMES = {"created_at": "2026-01-01T00:00:00"}
OPTIONS = {"num_workers": 1}
CONFIG = {"job_tags": {}, "model_training_job_id": "trainingjob-1", "predict_options": OPTIONS}


PIECE = 256 * 1024
DISTINCT_ROWS = 4_000_000
JOB = r"files-(\d+)-of-(\d+)"


def distinct(rows: int) -> int:
    """How many different files of so many rows there are."""
    return max(1, DISTINCT_ROWS // rows)


def make_files(folder: Path, rows: int) -> None:
    """Scores of a binary classification, as a large job writes them."""
    random = np.random.default_rng(7)
    for index in range(distinct(rows)):
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
        pq.write_table(table, folder / f"{rows}-{index}.parquet")


def serve(folder: Path, bytes_per_second: float, delay: float) -> None:
    """Serve the files, each connection at no more than so many bytes a second (0: as fast as can be),
    after so many seconds before the first byte."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            origin = f"http://{self.headers['Host']}"
            if path.startswith("/files/"):
                rows, index = map(int, Path(path).stem.split("-"))
                return self.send_file(folder / f"{rows}-{index % distinct(rows)}.parquet")
            job = re.search(JOB, path)
            files, rows = map(int, job.groups()) if job else (0, 0)
            if path.endswith("/get_prediction_df_urls"):
                urls = [f"{origin}/files/{rows}-{i}.parquet" for i in range(files)]
                return self.send({"prediction_partitions": urls})
            if path.startswith("/api/v1/prediction_jobs/"):
                result = {"num_entities_predicted": files * rows}
                known = {
                    "job_id": f"files-{files}-of-{rows}",
                    "job_status_report": REPORT,
                    "tags": {},
                }
                return self.send({**known, **TIMES, "config": CONFIG, "result": result})
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
            time.sleep(delay)
            self.wfile.flush()
            started = time.perf_counter()
            with path.open("rb") as file:
                # The kernel copies: the server must not be what is measured.
                for at in range(begin, end, PIECE if bytes_per_second else size):
                    piece = min(PIECE, end - at) if bytes_per_second else end - at
                    self.connection.sendfile(file, at, piece)
                    if bytes_per_second:
                        due = started + (at + piece - begin) / bytes_per_second
                        time.sleep(max(0.0, due - time.perf_counter()))

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}/api", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    folder, bytes_per_second, delay = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    for rows in map(int, sys.argv[4:]):
        make_files(folder, rows)
    serve(folder, bytes_per_second, delay)

"""As much of W&B's server as a client asks for to start a run and to stream it: for tests of a
network that goes away.

python tests/wandb_server.py PORT
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VIEWER = {"id": "v", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}
PROJECT = {"id": "p", "name": "ldm", "entity": {"id": "e", "name": "me"}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = self.graphql(json.loads(raw)) if "graphql" in self.path else {}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        print(self.path, flush=True)

    do_PUT = do_GET = do_POST

    def graphql(self, request):
        if "upsertBucket" in request["query"]:
            run = {
                "id": "r",
                "name": request["variables"]["name"],
                "displayName": "r",
                "config": "{}",
                "project": PROJECT,
            }
            return {
                "data": {
                    "upsertBucket": {"bucket": run | {"historyLineCount": 0}, "inserted": True}
                }
            }
        if (
            "createArtifact" in request["query"]
        ):  # one that is there already, so that its files are not asked for
            sequence = {"id": "s", "name": "s", "latestArtifact": {"id": "a", "versionIndex": 0}}
            artifact = {
                "id": "a",
                "state": "COMMITTED",
                "artifactSequence": sequence,
                "versionIndex": 0,
            }
            return {"data": {"createArtifact": {"artifact": artifact}}}
        if "createRunFiles" in request["query"]:
            files = [
                {"name": name, "uploadUrl": f"http://{self.headers['Host']}/up"}
                for name in request["variables"]["files"]
            ]
            return {"data": {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}}
        if "upsertView" in request["query"]:
            print("view " + request["variables"]["spec"], flush=True)
            return {
                "data": {
                    "upsertView": {
                        "view": {"id": "w", "name": request["variables"]["name"]},
                        "inserted": True,
                    }
                }
            }
        return {
            "data": {
                "viewer": VIEWER,
                "serverInfo": {"features": []},
                "model": None,
                "entity": None,
            }
        }

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()

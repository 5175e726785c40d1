"""Describes uploaded files. They come in `input._files`, their contents in base64."""

import base64
import hashlib
import json
import sys


def describe(file):
    data = base64.b64decode(file["data"])
    first_line = data.split(b"\n", 1)[0].decode("utf-8", errors="replace")
    return {
        "name": file["name"],
        "filename": file["filename"],
        "content_type": file["content_type"],
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "first_line": first_line[:80],
    }


request = json.loads(sys.stdin.read())
files = [describe(file) for file in request["input"].get("_files", [])]
print(
    json.dumps(
        {
            "request_id": request["request_id"],
            "success": True,
            "output": {"files": files, "total_size": sum(file["size"] for file in files)},
        }
    )
)

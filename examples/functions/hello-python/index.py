"""A stdio function: the request comes on stdin, the response goes to stdout.

This is how functions are written for Alyx; here it runs as it is.
"""

import json
import platform
import sys


def main():
    request = None
    try:
        request = json.loads(sys.stdin.read())
        missing = {"request_id", "function", "input"} - request.keys()
        if missing:
            raise ValueError(f"the request lacks {', '.join(sorted(missing))}")
        name = request["input"].get("name", "World")
        response = {
            "request_id": request["request_id"],
            "success": True,
            "output": {
                "message": f"Hello, {name}! (from Python)",
                "runtime": "python",
                "version": platform.python_version(),
            },
        }
    except Exception as error:
        response = {
            "request_id": request["request_id"] if request else "unknown",
            "success": False,
            "error": {"code": "EXECUTION_ERROR", "message": str(error)},
        }
    print(json.dumps(response))
    sys.exit(0 if response["success"] else 1)


main()

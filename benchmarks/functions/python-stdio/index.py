import json
import sys

request = json.loads(sys.stdin.read())
print(
    json.dumps({"request_id": request["request_id"], "success": True, "output": request["input"]})
)

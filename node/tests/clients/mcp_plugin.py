"""An MCP server in a few lines, which does as it is told, also what no server should."""

import json
import os
import subprocess
import sys

STRING = {"type": "string"}


def tool(name, about, **properties):
    schema = {"type": "object", "properties": properties, "required": sorted(properties)}
    return {"name": name, "description": about, "inputSchema": schema}


TOOLS = [
    tool("echo", "Says it again.", text=STRING),
    tool("add", "Adds two numbers.", a={"type": "integer"}, b={"type": "integer"}),
    tool("told", "Tells what it was called with."),
    tool("fails", "Fails, and says why."),
    tool("env", "Tells its environment."),
    tool("pid", "Tells its process."),
    tool("read", "Reads a file.", path=STRING),
    tool("write", "Writes a file.", path=STRING),
    tool("left", "Leaves a process of a session of its own behind, and tells which."),
    tool("hang", "Never answers."),
    tool("flood", "Writes a message without an end."),
    tool("storm", "Writes messages without end."),
    tool("large", "Answers with more than a step takes."),
    tool("garbage", "Answers with what is no answer."),
    tool("die", "Ends."),
]


def write(message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def text(content):
    return {"content": [{"type": "text", "text": content}]}


def forever(piece):
    while True:
        sys.stdout.write(piece)
        sys.stdout.flush()


def call(name, given, meta):
    if name == "echo":
        return text(given["text"])
    if name == "add":
        total = given["a"] + given["b"]
        return {**text(f"it is {total}"), "structuredContent": {"sum": total}}
    if name == "told":
        return text(json.dumps({"arguments": given, "key": meta.get("opcode/idempotency_key")}))
    if name == "fails":
        return {**text("no luck today"), "isError": True}
    if name == "env":
        return text(json.dumps(dict(os.environ)))
    if name == "pid":
        return text(str(os.getpid()))
    if name in ("read", "write"):
        try:
            with open(given["path"], name[0]) as file:
                return text("read: " + file.read() if name == "read" else f"wrote {file.write('x')}")
        except OSError as error:
            return {**text(str(error)), "isError": True}
    if name == "left":
        left = subprocess.Popen(["setsid", "sleep", "600"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return text(str(left.pid))
    if name == "hang":
        return None
    if name == "flood":
        forever("x" * 65536)
    if name == "storm":
        forever('{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"x"}}\n' * 100)
    if name == "large":
        return text("x" * (2 << 20))
    if name == "garbage":
        return {"nothing": "of the kind"}
    if name == "die":
        sys.stderr.write(f"it dies, as told, with {os.environ.get('TOKEN')}\n")
        sys.exit(3)
    raise ValueError(name)


def answer(method, params):
    if method == "initialize":
        version = params["protocolVersion"]
        server = {"name": "told", "version": "1"}
        return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": server}
    if method == "tools/list":
        return {"tools": TOOLS}
    if method == "tools/call":
        return call(params["name"], params.get("arguments") or {}, params.get("_meta") or {})
    return {}


def serve():
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message and "method" in message:
            result = answer(message["method"], message.get("params") or {})
            if result is not None:
                write({"jsonrpc": "2.0", "id": message["id"], "result": result})


MODE = sys.argv[1] if len(sys.argv) > 1 else "serve"
if MODE == "serve":
    serve()
elif MODE == "silent":
    sys.stdin.read()
elif MODE == "garbage":
    for _ in range(1000):
        print("\x00\xff{]} this is not the protocol you are looking for")
    sys.stdin.read()
elif MODE == "dies":
    sys.stderr.write("no such database\n")
    sys.exit(7)

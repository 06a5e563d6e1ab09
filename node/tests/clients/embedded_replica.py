"""An embedded replica of a shard, held by the libSQL client from PyPI (`libsql`).

Started with the path of the replica. For each line on standard input, the URL to sync from, it
syncs once and answers with a line of JSON: how many workflows and events the replica has, read
from the local file, or the client's error.
"""

import json
import sys

import libsql


def look(path: str, url: str) -> dict:
    try:
        connection = libsql.connect(path, sync_url=url, auth_token="none")
        connection.sync()
        count = lambda table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        return {"workflows": count("workflows"), "events": count("event_rows")}
    except Exception as error:  # the client raises several kinds
        return {"error": str(error)}


def main() -> None:
    path = sys.argv[1]
    for line in sys.stdin:
        print(json.dumps(look(path, line.strip())), flush=True)


if __name__ == "__main__":
    main()

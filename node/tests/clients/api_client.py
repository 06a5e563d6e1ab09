"""Defines, runs and decides a workflow with the client that openapi-python-client makes.

Usage: python api_client.py FOLDER_OF_THE_CLIENT URL
The client is made by: openapi-python-client generate --url URL/openapi.json --meta none --output-path opcode_client
"""

import sys

sys.path.insert(0, sys.argv[1])

from opcode_client import Client  # noqa: E402
from opcode_client.api.catalogue import list_decisions  # noqa: E402
from opcode_client.api.workflows import get_workflow, signal_workflow, submit_workflow  # noqa: E402
from opcode_client.models import Problem, SignalRequest, SubmitRequest  # noqa: E402

client = Client(base_url=sys.argv[2], raise_on_unexpected_status=True)

definition = {
    "steps": [
        {"id": "ask", "type": "reasoning", "config": {"prompt_context": "Go on?", "options": [{"id": "yes"}]}},
        {"id": "sum", "action": "expr.eval", "depends_on": ["ask"], "params": {"expression": "inputs.a + inputs.b"}},
    ]
}
body = SubmitRequest.from_dict({"id": "by-python", "definition": definition, "params": {"a": 1, "b": 2}})
submitted = submit_workflow.sync(client=client, body=body)
assert submitted.workflow_id == "by-python", submitted

# The same again is the same run.
again = submit_workflow.sync_detailed(client=client, body=body)
assert again.status_code == 200, again

run = get_workflow.sync("by-python", client=client, wait="10s")
assert run.status == "suspended", run
decisions = list_decisions.sync(client=client, status="pending").items
asked = next(decision for decision in decisions if decision.workflow_id == "by-python")
choice = SignalRequest.from_dict({"type": "decision", "step_id": asked.step_id, "payload": {"choice": "yes"}})
signal_workflow.sync("by-python", client=client, body=choice)

run = get_workflow.sync("by-python", client=client, wait="10s")
assert run.status == "completed", run
assert run.steps["sum"].output["result"] == 3, run.steps["sum"]

missing = get_workflow.sync("nobody", client=client)
assert isinstance(missing, Problem) and missing.code == "NOT_FOUND", missing
print("done")

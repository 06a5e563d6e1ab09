// Defines, runs and decides a workflow with the types that openapi-typescript makes, and openapi-fetch.
//
// The types are made by: openapi-typescript URL/openapi.json -o schema.d.ts
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

declare const process: { argv: string[] };

type SubmitRequest = components["schemas"]["SubmitRequest"];

const client = createClient<paths>({ baseUrl: process.argv[2] });

function check(condition: boolean, what: unknown): asserts condition {
    if (!condition) throw new Error(JSON.stringify(what));
}

async function run(id: string) {
    const { data, error } = await client.GET("/v1/workflows/{id}", {
        params: { path: { id }, query: { wait: "10s" } },
    });
    check(data !== undefined, error);
    return data;
}

const definition = {
    steps: [
        { id: "ask", type: "reasoning", config: { prompt_context: "Go on?", options: [{ id: "yes" }] } },
        { id: "sum", action: "expr.eval", depends_on: ["ask"], params: { expression: "inputs.a + inputs.b" } },
    ],
};
const body: SubmitRequest = { id: "by-typescript", definition, params: { a: 1, b: 2 } };
const submitted = await client.POST("/v1/workflows", { body });
check(submitted.data?.workflow_id === "by-typescript", submitted.error);

// The same again is the same run.
const again = await client.POST("/v1/workflows", { body });
check(again.response.status === 200, again.error);

check((await run("by-typescript")).status === "suspended", "it waits");
const pending = await client.GET("/v1/decisions", { params: { query: { status: "pending" } } });
const asked = pending.data?.items.find((decision) => decision.workflow_id === "by-typescript");
check(asked !== undefined, pending.error);
const signalled = await client.POST("/v1/workflows/{id}/signals", {
    params: { path: { id: "by-typescript" } },
    body: { type: "decision", step_id: asked.step_id, payload: { choice: "yes" } },
});
check(signalled.response.status === 202, signalled.error);

const ended = await run("by-typescript");
check(ended.status === "completed", ended);

const missing = await client.GET("/v1/workflows/{id}", { params: { path: { id: "nobody" } } });
check(missing.error?.code === "NOT_FOUND", missing);
console.log("done");

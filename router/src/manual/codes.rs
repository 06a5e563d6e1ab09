//! What each code of an error means, why it comes, what to do, and how it looks.

/// One code, for people.
pub(crate) struct Page {
    pub(crate) code: &'static str,
    /// One sentence.
    pub(crate) title: &'static str,
    /// The HTTP status of a call that is refused with it.
    pub(crate) status: &'static str,
    pub(crate) cause: &'static str,
    pub(crate) fix: &'static str,
    /// A call and its answer, or a step's `error`.
    pub(crate) example: &'static str,
}

/// The page of a code.
pub(crate) fn find(code: &str) -> Option<&'static Page> {
    PAGES.iter().find(|page| page.code == code)
}

/// What stands for the status of those that only steps and runs fail with.
const IN_A_RUN: &str = "none: it stands in the `error` of a step or a run";

/// All of them: those of calls, then those of steps and runs.
pub(crate) const PAGES: &[Page] = &[
    Page {
        code: "VALIDATION_ERROR",
        title: "What was sent is not what the call takes.",
        status: "400 when it cannot be read, 405, 415, or 422 when it can and is wrong",
        cause: "The body is not JSON, has an unknown or a wrong field, or a definition breaks a rule; or an id or \
                an Idempotency-Key was used before with another body.",
        fix: "Read `errors`: each has a JSON pointer to its place, and often what was meant. `opcode validate FILE` \
              finds all of a definition's at once, without a node. A step that fails so is not tried again.",
        example: "POST /v1/workflows {\"definition\": {\"steps\": [{\"id\": \"a\", \"action\": \"http.gett\"}]}}\n\
                  422 {\"code\": \"VALIDATION_ERROR\", \"errors\": [{\"pointer\": \"/definition/steps/0/action\", \
                  \"message\": \"there is no action \\\"http.gett\\\"; did you mean \\\"http.get\\\"?\"}]}",
    },
    Page {
        code: "NOT_FOUND",
        title: "There is nothing of that name.",
        status: "404",
        cause: "No run, template, schedule, secret or path of that name: a typing error, one that was deleted, or, \
                with `?consistency=eventual`, one that the replica does not have yet.",
        fix: "List what there is (`opcode wf list`, `opcode template list`). To read what you have just written, send \
              the Opcode-Token of the answer with `?consistency=session`.",
        example: "GET /v1/workflows/order-17\n404 {\"code\": \"NOT_FOUND\", \"detail\": \"there is no workflow order-17\"}",
    },
    Page {
        code: "CONFLICT",
        title: "It is, by now, otherwise than the call supposes.",
        status: "409",
        cause: "Somebody else has changed the same thing, it is being deleted, or it is in use or paused.",
        fix: "Read it again and decide anew.",
        example: "POST /v1/workflows {\"template\": \"nightly\"}\n409 {\"code\": \"CONFLICT\", \"detail\": \"the template \
                  `nightly` is paused: no run of it starts\"}",
    },
    Page {
        code: "INVALID_TRANSITION",
        title: "A run in this status cannot do that.",
        status: "409",
        cause: "One that has ended was to be cancelled, suspended or signalled, or one that has not ended to be \
                retried or deleted.",
        fix: "`opcode wf get ID` shows the status. Cancel before you delete; retry what has ended; start another run of \
              the same (`opcode wf rerun ID`).",
        example: "POST /v1/workflows/order-17/cancel\n409 {\"code\": \"INVALID_TRANSITION\"}",
    },
    Page {
        code: "CYCLE_DETECTED",
        title: "Steps wait for each other in a circle.",
        status: "422",
        cause: "Following `depends_on`, and references of one step to another's output, leads back to where it began.",
        fix: "`detail` names the steps on the way. Take one of the dependencies out, or use a loop step.",
        example: "POST /v1/validate {\"steps\": [{\"id\": \"a\", \"action\": \"jq\", \"depends_on\": [\"b\"]}, {\"id\": \"b\", \
                  \"action\": \"jq\", \"depends_on\": [\"a\"]}]}\n422 {\"code\": \"CYCLE_DETECTED\"}",
    },
    Page {
        code: "PAYLOAD_TOO_LARGE",
        title: "The body, or a definition in it, is larger than the node takes.",
        status: "413",
        cause: "A body over 4 MiB, or a definition over 1 MiB.",
        fix: "Send a batch in parts; keep large data elsewhere and hand on where it is.",
        example: "POST /v1/workflows …\n413 {\"code\": \"PAYLOAD_TOO_LARGE\", \"detail\": \"the body is larger than 4194304 bytes\"}",
    },
    Page {
        code: "UNAUTHENTICATED",
        title: "The node does not know who is calling.",
        status: "401",
        cause: "No token, one that the node does not know, or one that has expired or was deleted.",
        fix: "Send `Authorization: Bearer TOKEN`; the CLI takes `--token-file` or OPCODE_TOKEN. An administrator makes \
              one with `opcode token create`.",
        example: "GET /v1/workflows\n401 {\"code\": \"UNAUTHENTICATED\", \"detail\": \"this node asks for `Authorization: Bearer \
                  TOKEN`\"}",
    },
    Page {
        code: "PERMISSION_DENIED",
        title: "The caller, or the step, may not do that.",
        status: "403",
        cause: "The token lacks the scope, or is another agent's; a page of another site called. In a step: \
                `shell.exec` is off, or `http.*` would reach a private, loopback or metadata address.",
        fix: "`detail` names the scope that is asked for. For steps: --allow-shell, --allow-private-network; each lets \
              whoever may submit a run do the same.",
        example: "POST /v1/cluster/rebalance\n403 {\"code\": \"PERMISSION_DENIED\", \"detail\": \"this call asks for the scope \
                  `admin`; the token has: read\"}",
    },
    Page {
        code: "OVERLOADED",
        title: "More is under way than the node takes; nothing of this was applied.",
        status: "429 with Retry-After and `applied: \"no\"`",
        cause: "A shard's queue is full, the bodies held are over their bound, or too many requests wait or listen.",
        fix: "Wait for Retry-After and send it again, with a growing pause. If it lasts: more nodes, or fewer and \
              larger batches; the alert OpcodeOverloaded says where to look.",
        example: "POST /v1/workflows …\n429 {\"code\": \"OVERLOADED\", \"applied\": \"no\"}",
    },
    Page {
        code: "UNAVAILABLE",
        title: "Nobody can answer that just now.",
        status: "503 with Retry-After and `applied`; 500 when the node has met a fault of its own",
        cause: "The shard has no leader or no majority, the node starts or stops, or the connection to the leader was \
                lost in the middle.",
        fix: "With `applied: \"no\"` send it again. With `\"unknown\"` send it again with the same id, which cannot be \
              done twice. If it lasts, `opcode cluster status` shows who is missing.",
        example: "POST /v1/workflows …\n503 {\"code\": \"UNAVAILABLE\", \"applied\": \"unknown\"}",
    },
    Page {
        code: "NOT_LEADER",
        title: "The node does not lead the shard, and knows of nobody who does.",
        status: "503 with Retry-After and `applied: \"no\"`",
        cause: "An election is under way. Nodes pass this among themselves and try three times before a client hears \
                of it.",
        fix: "Send it again after Retry-After.",
        example: "POST /v1/workflows …\n503 {\"code\": \"NOT_LEADER\", \"applied\": \"no\"}",
    },
    Page {
        code: "STALE_EPOCH",
        title: "The caller knows an older arrangement of the shards.",
        status: "409",
        cause: "A shard has moved or has another leader since; between nodes it is put right without the client.",
        fix: "Send it again, without the old token.",
        example: "GET /v1/workflows/order-17?consistency=session\n409 {\"code\": \"STALE_EPOCH\"}",
    },
    Page {
        code: "EVENTS_GONE",
        title: "The stream cannot go on from there: what came then is kept no more.",
        status: "410",
        cause: "The place that was asked for, by Last-Event-ID or `after`, is of events that the log has let go of.",
        fix: "Follow from the place that `detail` names, and read what was missed from the runs: `GET /v1/workflows` \
              since the last time, then the events of each.",
        example: "GET /v1/events, Last-Event-ID: …\n410 {\"code\": \"EVENTS_GONE\"}",
    },
    Page {
        code: "STORAGE_FULL",
        title: "The disk of the node that leads the shard is full; nothing of this was applied.",
        status: "503 with Retry-After and `applied: \"no\"`",
        cause: "There is no room for new work. What was accepted goes on as long as it can.",
        fix: "Make room, or `opcode cluster move SHARD --to NODE`. `opcode wf bulk delete --status completed --until \
              720h` removes old runs.",
        example: "POST /v1/workflows …\n503 {\"code\": \"STORAGE_FULL\", \"applied\": \"no\"}",
    },
    Page {
        code: "VAULT_ERROR",
        title: "Secrets cannot be opened or sealed.",
        status: "503 with Retry-After and `applied: \"no\"`",
        cause: "The node has no key for secrets or another one, or the step names a secret that is not there. A step \
                that fails so may be tried again.",
        fix: "Give every node the same keys (--secrets-key-file); set the secret (`opcode secret set KEY`).",
        example: "{\"code\": \"VAULT_ERROR\", \"message\": \"there is no secret `api_key`\", \"step_id\": \"charge\"}",
    },
    Page {
        code: "EXECUTION_ERROR",
        title: "An action did not do what it was to do.",
        status: IN_A_RUN,
        cause: "A connection was refused, a service answered 5xx (with fail_on_error_status), a command or a file \
                system failed. It may be tried again.",
        fix: "`message` and `details` say what happened. Give the step a `retry`, an `on_error`, or put the other side \
              right and `opcode wf retry ID`.",
        example: "{\"code\": \"EXECUTION_ERROR\", \"message\": \"http.get: connection refused\", \"step_id\": \"fetch\"}",
    },
    Page {
        code: "TIMEOUT_ERROR",
        title: "It took longer than it may.",
        status: "408 when a request's body does not arrive; else it stands in the `error` of a step or a run",
        cause: "A step's or a run's `timeout`, or the 30 s of an action that has none. It may be tried again.",
        fix: "A longer `timeout`, or less work in a step.",
        example: "{\"code\": \"TIMEOUT_ERROR\", \"message\": \"http.get took longer than 30000 ms\", \"step_id\": \"fetch\"}",
    },
    Page {
        code: "STEP_FAILED",
        title: "A step failed, and its run with it.",
        status: IN_A_RUN,
        cause: "A step of the run, of its child or of a compensation failed, and nothing took its place.",
        fix: "`step_id` says which; its own error says why. `opcode wf retry ID --from-step STEP` goes on from there.",
        example: "{\"code\": \"STEP_FAILED\", \"step_id\": \"charge\"}",
    },
    Page {
        code: "STORE_ERROR",
        title: "A store could not be read or written.",
        status: IN_A_RUN,
        cause: "A disk failed under a step. It may be tried again.",
        fix: "Look at the node's log, and at its disk.",
        example: "{\"code\": \"STORE_ERROR\", \"step_id\": \"save\"}",
    },
    Page {
        code: "INTERPOLATION_ERROR",
        title: "An expression in a step's params has no value.",
        status: IN_A_RUN,
        cause: "`${{…}}` names what is not there, has the wrong type for what is done with it, or costs more than it \
                may. It may be tried again.",
        fix: "`opcode wf get ID -o json` shows the steps' outputs. Use `??` or has() for what may be missing.",
        example: "{\"code\": \"INTERPOLATION_ERROR\", \"message\": \"steps.fetch.output.body.total: there is no `total`\"}",
    },
    Page {
        code: "ISOLATION_ERROR",
        title: "A program could not be kept apart as it must be.",
        status: IN_A_RUN,
        cause: "The host has no more processes or memory, or does not let the node limit what it starts. It may be \
                tried again.",
        fix: "Look at the limits of the node's process and container.",
        example: "{\"code\": \"ISOLATION_ERROR\", \"step_id\": \"build\"}",
    },
    Page {
        code: "ACTION_UNAVAILABLE",
        title: "The action is not to be had on this node now.",
        status: "422",
        cause: "A plugin is not there or does not run, or the template of a child run is paused. It may be tried again.",
        fix: "`GET /v1/actions` lists what there is. Start the plugin; `opcode template resume NAME`.",
        example: "{\"code\": \"ACTION_UNAVAILABLE\", \"step_id\": \"summarise\"}",
    },
    Page {
        code: "NON_RETRYABLE",
        title: "It failed in a way that trying again does not change.",
        status: IN_A_RUN,
        cause: "`workflow.fail`, a service's 4xx (with fail_on_error_status), an output over 1 MiB, bytes that are no \
                text.",
        fix: "Change the step or what it is given; then `opcode wf retry ID --from-step STEP --params …`.",
        example: "{\"code\": \"NON_RETRYABLE\", \"message\": \"http.get: the server answered 404\", \"step_id\": \"fetch\"}",
    },
    Page {
        code: "CIRCUIT_OPEN",
        title: "The action has failed so often in a row that it is not called now.",
        status: IN_A_RUN,
        cause: "Five outages in a row of an action (and host, for `http.*`) on this node; one call tries it every 30 s.",
        fix: "Put the other side right; the breaker closes by itself. `details.retry_after_ms` says when the next try \
              may go. Then `opcode wf retry ID`.",
        example: "{\"code\": \"CIRCUIT_OPEN\", \"details\": {\"retry_after_ms\": 21000}, \"step_id\": \"charge\"}",
    },
    Page {
        code: "ASSERTION_FAILED",
        title: "An assert.* step found otherwise.",
        status: IN_A_RUN,
        cause: "What the step looked at is not what it says it must be.",
        fix: "`details` has both. It is the data that is wrong, or the assertion.",
        example: "{\"code\": \"ASSERTION_FAILED\", \"details\": {\"expected\": 3, \"actual\": 2}, \"step_id\": \"check\"}",
    },
    Page {
        code: "PATH_DENIED",
        title: "A step would touch a file outside of the folders that it may.",
        status: "403",
        cause: "`fs.*`, symlinks resolved, leads out of every folder of --fs-root; without any, all is refused.",
        fix: "Start the node with --fs-root FOLDER, or keep the file in one of them.",
        example: "{\"code\": \"PATH_DENIED\", \"step_id\": \"save\"}",
    },
    Page {
        code: "RETRY_EXHAUSTED",
        title: "A step failed at every try, and its run with it.",
        status: IN_A_RUN,
        cause: "All attempts of the step's `retry` failed; `details` has the last one's error.",
        fix: "Put right what the last error says; `opcode wf retry ID` tries as often again.",
        example: "{\"code\": \"RETRY_EXHAUSTED\", \"step_id\": \"charge\"}",
    },
    Page {
        code: "CANCELLED",
        title: "The run, or the step with it, was called off.",
        status: IN_A_RUN,
        cause: "Somebody cancelled it, or its parent did; `message` has the reason that was given.",
        fix: "`opcode wf retry ID` starts it again, if it was a mistake.",
        example: "{\"code\": \"CANCELLED\", \"message\": \"the customer called\"}",
    },
    Page {
        code: "SIGNAL_FAILED",
        title: "A signal could not be brought to where it was to go.",
        status: IN_A_RUN,
        cause: "The run that it was for is not there, or has ended.",
        fix: "Look at the run that it was for.",
        example: "{\"code\": \"SIGNAL_FAILED\", \"step_id\": \"tell\"}",
    },
];

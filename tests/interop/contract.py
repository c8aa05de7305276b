"""What these tests take for granted about `usher`'s output, all in one place.

The command line itself is spelled out in the tests. Here are the names of JSON fields, the words
a session's life is told in, and the conditions a peer is told on the wire. JSON lists print one
array, outcomes print one object, `session watch --json` prints one object a line.
"""

import re

# --- exit statuses -------------------------------------------------------------------------
DONE, FAILED, USAGE, NO_MATCH = 0, 1, 2, 3

# --- `session list --json`, `session show --json` ------------------------------------------
SESSION_FIELDS = {
    "id",
    "jid",
    "stage",
    "available",
    "interested",
    "since",
    "address",
    "port",
    "tls",
    "mechanism",
    "token",
    "software",
    "rx_bytes",
    "tx_bytes",
    "rx_stanzas",
    "tx_stanzas",
    "last_activity",
}

# A list that is empty prints `[]` and has the exit status of nothing matched.

# --- `session count --json`: one object, the whole and each stage ----------------------------
COUNT_TOTAL = "total"

# --- outcomes: one object, with a row for each thing that it was about ------------------------
ROWS = "rows"

# `session end --json`: {"ended": 1, "rows": [{"id", "jid", "outcome"}]}; with `--dry-run`
# {"would_end": 1, "rows": [...]}
END_OUTCOME = "outcome"
END_COUNT = "ended"
DRY_RUN_COUNT = "would_end"
ENDED = "ended"
WOULD_END = "would-end"

# `token mint --json`: {"rows": [{"id", "token", "expires"}]}; `token list --json`
TOKEN_ID = "id"
TOKEN_SECRET = "token"
TOKEN_STATE = "state"

# `user import --json`: {"added": 3, "skipped": 1, "rows": [{"row", "jid", "problem"}]}
IMPORT_ADDED = "added"
IMPORT_SKIPPED = "skipped"
IMPORT_ROW = "row"
IMPORT_PROBLEM = "problem"

# --- `user show --json`, `user list --json` --------------------------------------------------
USER_JID = "jid"
USER_ROLE = "role"
USER_ENABLED = "enabled"

# --- `audit list --json`, newest first -------------------------------------------------------
AUDIT_FIELDS = {"at", "who", "what", "args", "ok", "outcome"}

# --- `session watch --json`: one object a line -----------------------------------------------
WATCH_CHANGE = "change"
WATCH_LIFE = ["connected", "logged-in", "bound", "interested", "available", "ended"]

# --- stream errors by cause (RFC 6120 section 4.9.3) -----------------------------------------
KICKED = "policy-violation"
REVOKED = "not-authorized"
DISABLED = "not-authorized"
DELETED = "not-authorized"
PASSWORD_CHANGED = "reset"
REPLACED = "conflict"
SHUTDOWN = "system-shutdown"
BLOCKED = "not-authorized"

# Beside the condition stands `<ended xmlns='urn:usher:session:0' reason='...'/>`.
ENDED_ELEMENT = "ended"

# The condition by level of `session end`; `end` is the default level.
CONDITION_OF_LEVEL = {"kick": KICKED, "end": KICKED, "revoke": REVOKED}

# --- SASL failures (RFC 6120 section 6.5) ----------------------------------------------------
WRONG_PASSWORD = "not-authorized"
ACCOUNT_DISABLED = "account-disabled"
# Only a peer that proves it once held the token is told why it is dead.
TOKEN_REVOKED = "credentials-expired"
TOKEN_FORGED = "not-authorized"

# --- a token as it is written (RFC 8959: `secret-token:` and URI path characters) -----------------
TOKEN = re.compile(r"secret-token:[A-Za-z0-9\-._~!$&'()*+,;=:@%]+")

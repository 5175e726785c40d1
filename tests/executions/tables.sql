-- sqlite
CREATE TABLE executions (
    id TEXT NOT NULL,
    function TEXT NOT NULL,
    caller TEXT NOT NULL,
    "trigger" TEXT NOT NULL,
    status TEXT NOT NULL,
    version TEXT,
    code TEXT,
    message TEXT,
    attempts INTEGER NOT NULL,
    created_at DOUBLE NOT NULL,
    started_at DOUBLE,
    ended_at DOUBLE,
    due_at DOUBLE,
    queue_ms DOUBLE,
    boot_ms DOUBLE,
    run_ms DOUBLE,
    cpu_ms DOUBLE,
    peak_memory_bytes BIGINT,
    cold BOOLEAN,
    input_bytes BIGINT NOT NULL,
    output_bytes BIGINT NOT NULL,
    log_tail TEXT NOT NULL,
    response TEXT,
    asynchronous BOOLEAN NOT NULL,
    retries INTEGER NOT NULL,
    waits INTEGER NOT NULL,
    owner TEXT,
    claim INTEGER NOT NULL,
    cancel_asked BOOLEAN NOT NULL,
    PRIMARY KEY (id)
)
CREATE INDEX executions_caller ON executions (caller, created_at)
CREATE INDEX executions_created ON executions (created_at, id)
CREATE INDEX executions_due ON executions (due_at, input_bytes) WHERE status IN ('queued', 'retrying')
CREATE INDEX executions_ended ON executions (ended_at)
CREATE INDEX executions_function ON executions (function, created_at)
CREATE INDEX executions_status ON executions (status, created_at)
CREATE TABLE servers (
    owner TEXT NOT NULL,
    store TEXT NOT NULL,
    beat BIGINT NOT NULL,
    PRIMARY KEY (owner)
)
CREATE TABLE execution_inputs (
    id TEXT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY(id) REFERENCES executions (id) ON DELETE CASCADE
)
-- postgresql
CREATE TABLE executions (
    id TEXT NOT NULL,
    function TEXT NOT NULL,
    caller TEXT NOT NULL,
    trigger TEXT NOT NULL,
    status TEXT NOT NULL,
    version TEXT,
    code TEXT,
    message TEXT,
    attempts INTEGER NOT NULL,
    created_at DOUBLE PRECISION NOT NULL,
    started_at DOUBLE PRECISION,
    ended_at DOUBLE PRECISION,
    due_at DOUBLE PRECISION,
    queue_ms DOUBLE PRECISION,
    boot_ms DOUBLE PRECISION,
    run_ms DOUBLE PRECISION,
    cpu_ms DOUBLE PRECISION,
    peak_memory_bytes BIGINT,
    cold BOOLEAN,
    input_bytes BIGINT NOT NULL,
    output_bytes BIGINT NOT NULL,
    log_tail TEXT NOT NULL,
    response TEXT,
    asynchronous BOOLEAN NOT NULL,
    retries INTEGER NOT NULL,
    waits INTEGER NOT NULL,
    owner TEXT,
    claim INTEGER NOT NULL,
    cancel_asked BOOLEAN NOT NULL,
    PRIMARY KEY (id)
)
CREATE INDEX executions_caller ON executions (caller, created_at)
CREATE INDEX executions_created ON executions (created_at, id)
CREATE INDEX executions_due ON executions (due_at, input_bytes) WHERE status IN ('queued', 'retrying')
CREATE INDEX executions_ended ON executions (ended_at)
CREATE INDEX executions_function ON executions (function, created_at)
CREATE INDEX executions_status ON executions (status, created_at)
CREATE TABLE servers (
    owner TEXT NOT NULL,
    store TEXT NOT NULL,
    beat BIGINT NOT NULL,
    PRIMARY KEY (owner)
)
CREATE TABLE execution_inputs (
    id TEXT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY(id) REFERENCES executions (id) ON DELETE CASCADE
)

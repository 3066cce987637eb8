-- A job's state is stored as JSON. Needs: keys.
local QUEUED, RUNNING = '"queued"', '"running"'
local function state_of(id) return redis.call('HGET', job_key(id), 'state') end
local function is_open(state) return state == QUEUED or state == RUNNING end

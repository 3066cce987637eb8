#!lua flags=allow-oom
-- One look at all jobs that have not ended. ARGV: the queue of their messages; seconds after which a job is sent again
-- where messages are missing (as many as are, those first that were sent longest ago), and where none is. Returns the
-- running jobs that nobody holds, and the queued ones to be sent again, which count as sent now. A score in the future
-- is of a clock that was set back since.
--@include keys
--@include now
--@include states
--@include close_job
local current, lost, ready = now(), {}, {}
local function is_ready(id)
    local fetch = redis.call('HGET', job_key(id), delivery_field('fetch'))
    return not fetch or cjson.decode(fetch).state == 'delivered'
end
local active = redis.call('ZRANGE', ACTIVE, 0, -1, 'WITHSCORES')
for i = 1, #active, 2 do
    local id, score = active[i], tonumber(active[i + 1])
    local state = state_of(id)
    if not state then
        redis.call('ZREM', ACTIVE, id)
    elseif state == RUNNING then
        if redis.call('EXISTS', lease_key(id)) == 0 then lost[#lost + 1] = id end
    elseif state == QUEUED then
        if is_ready(id) then ready[#ready + 1] = {id, score} end
    else
        close_job(id, redis.call('HGET', job_key(id), 'owner'), current)
    end
end
local again, missing = {}, #ready - redis.call('LLEN', ARGV[1])
for _, one in ipairs(ready) do
    local again_after_s = tonumber(#again < missing and ARGV[2] or ARGV[3])
    if one[2] <= current - again_after_s or one[2] > current then
        redis.call('ZADD', ACTIVE, 'XX', current, one[1])
        again[#again + 1] = one[1]
    end
end
return {lost, again}

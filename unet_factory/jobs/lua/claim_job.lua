#!lua flags=allow-oom
-- ARGV: id, owner, lease in ms. Returns 1 when the owner now holds the job. Only a queued job can be claimed: a running
-- one whose lease has ended comes back through the reaper alone, which caps the attempts.
--@include keys
--@include now
--@include states
local id, owner, lease_ms = ARGV[1], ARGV[2], ARGV[3]
if state_of(id) ~= QUEUED then return 0 end
if not redis.call('SET', lease_key(id), owner, 'NX', 'PX', lease_ms) then return 0 end
redis.call('HSET', job_key(id), 'state', RUNNING)
redis.call('HINCRBY', job_key(id), 'attempts', 1)
redis.call('ZADD', ACTIVE, now(), id)
redis.call('PUBLISH', events_channel(id), 'changed')
return 1

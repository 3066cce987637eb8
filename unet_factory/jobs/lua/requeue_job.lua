#!lua flags=allow-oom
-- ARGV: id. Puts a running job that nobody holds back to queued; returns 1 then.
--@include keys
--@include states
local id = ARGV[1]
if redis.call('EXISTS', lease_key(id)) == 1 or state_of(id) ~= RUNNING then return 0 end
redis.call('HSET', job_key(id), 'state', QUEUED, 'progress', '0.0')
redis.call('PUBLISH', events_channel(id), 'changed')
return 1

#!lua flags=allow-oom
-- Writes fields of a job that has not ended, for the owner of its lease, or for anybody where no owner is given.
-- ARGV: id, owner or '', field, value, ... Returns 1 when they were written.
--@include keys
--@include states
local id, owner = ARGV[1], ARGV[2]
if owner ~= '' and redis.call('GET', lease_key(id)) ~= owner then return 0 end
if not is_open(state_of(id)) then return 0 end
redis.call('HSET', job_key(id), unpack(ARGV, 3))
redis.call('PUBLISH', events_channel(id), 'changed')
return 1

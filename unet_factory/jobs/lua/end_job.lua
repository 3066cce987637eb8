#!lua flags=allow-oom
-- Ends a job that has not ended, as the owner of its lease or, where no owner is given, from outside, and makes its
-- deliveries due: neither happens without the other.
-- ARGV: id, owner or '', field, value, ... (the state among them). Returns the job's model (JSON), or nothing.
--@include keys
--@include now
--@include states
--@include close_job
--@include deliveries_of
local id, owner = ARGV[1], ARGV[2]
if owner ~= '' and redis.call('GET', lease_key(id)) ~= owner then return false end
if not is_open(state_of(id)) then return false end
redis.call('HSET', job_key(id), 'finished', now(), unpack(ARGV, 3))
for _, one in ipairs(deliveries_of(id)) do
    if one.name ~= 'fetch' then
        redis.call('ZADD', delivery_queue(one.delivery), now(), one.id)
        redis.call('SADD', DELIVERY_QUEUES, delivery_queue(one.delivery))
    end
end
close_job(id)
redis.call('PUBLISH', events_channel(id), 'changed')
return redis.call('HGET', job_key(id), 'model')

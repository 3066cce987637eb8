#!lua flags=allow-oom
-- Ends a job that has not ended, as the owner of its lease or, where no owner is given, from outside, and makes its
-- deliveries due: neither happens without the other.
-- ARGV: id, owner or '', what it takes up now in bytes or '', field, value, ... (the state among them). Returns the
-- job's model (JSON), or nothing.
--@include keys
--@include now
--@include states
--@include close_job
--@include fields
--@include deliveries_of
local id, owner, bytes = ARGV[1], ARGV[2], ARGV[3]
if owner ~= '' and redis.call('GET', lease_key(id)) ~= owner then return false end
local fields, current = fields_of(id), now()
if not is_open(field(fields, 'state')) then return false end
redis.call('HSET', job_key(id), 'finished', current, unpack(ARGV, 4))
for _, one in ipairs(deliveries_of(id, fields)) do
    if one.name ~= 'fetch' then
        redis.call('ZADD', delivery_queue(one.delivery), current, one.id)
        redis.call('SADD', DELIVERY_QUEUES, delivery_queue(one.delivery))
    end
end
local asker = field(fields, 'owner')
close_job(id, asker, current)
if bytes ~= '' and asker and asker ~= '' then redis.call('HSET', stored_key(asker), id, bytes) end
redis.call('PUBLISH', events_channel(id), 'ended')
return field(fields, 'model')

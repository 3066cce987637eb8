#!lua flags=allow-oom
-- Forgets a job and all that hangs on it, leaving a tombstone that only says whose it was. What frees memory comes first.
-- ARGV: id, seconds that the tombstone lasts, what a sealed idempotency entry begins with.
-- Returns the model (JSON) of a job that had not ended, else nothing.
--@include keys
--@include states
--@include fields
--@include deliveries_of
local id, tombstone_s, sealed = ARGV[1], ARGV[2], ARGV[3]
local fields = fields_of(id)
local state, owner = field(fields, 'state'), field(fields, 'owner')
local idempotency, model = field(fields, 'idempotency'), field(fields, 'model')
for _, one in ipairs(deliveries_of(id, fields)) do
    redis.call('ZREM', delivery_queue(one.delivery), one.id)
    redis.call('ZREM', DEAD_DELIVERIES, one.id)
    redis.call('DEL', delivery_lease_key(one.id))
end
redis.call('DEL', job_key(id), lease_key(id))
for _, set in ipairs({ACTIVE, EXPIRY, UPLOADS}) do redis.call('ZREM', set, id) end
redis.call('HDEL', DICOM_RESULTS, id)
if owner then
    redis.call('ZREM', owner_key(owner), id)
    redis.call('ZREM', listing_key(owner), id)
    redis.call('HDEL', stored_key(owner), id)
end
if idempotency then -- the key stays taken, what it stood for is dropped
    local entry, suffix = redis.call('GET', idempotency_key(idempotency)), ' ' .. id
    if entry and string.sub(entry, -string.len(suffix)) == suffix then
        redis.call('SET', idempotency_key(idempotency), sealed .. suffix, 'KEEPTTL')
    end
end
if state then redis.call('SET', tombstone_key(id), owner or '', 'EX', tombstone_s) end -- else it was purged before
redis.call('SET', PURGED, '1')
redis.call('PUBLISH', events_channel(id), 'ended')
return is_open(state) and model

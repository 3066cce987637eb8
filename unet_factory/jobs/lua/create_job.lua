-- Records a queued job. ARGV: id, expires, owner, queue of its fetch or '', bytes of its upload, how many bytes its
-- owner may have stored (0: any number), 1 if its scan is DICOM or 0, field, value, ... Returns 1, or 0 when the owner
-- may not store so many.
-- The memory limit of the server refuses this, so that it never has to refuse what was accepted.
--@include keys
--@include now
--@include stored_bytes
local id, expires, owner, fetch_queue = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local bytes, allowed_bytes, current = tonumber(ARGV[5]), tonumber(ARGV[6]), now()
if allowed_bytes > 0 and stored_bytes(owner) + bytes > allowed_bytes then return 0 end
if owner ~= '' then redis.call('HSET', stored_key(owner), id, bytes) end
redis.call('HSET', job_key(id), unpack(ARGV, 8))
redis.call('ZADD', ACTIVE, current, id)
redis.call('ZADD', EXPIRY, expires, id)
redis.call('ZADD', listing_key(owner), current, id)
if owner ~= '' then redis.call('ZADD', owner_key(owner), current, id) end
if ARGV[7] == '1' then redis.call('HSET', DICOM_RESULTS, id, owner .. '/') end
if fetch_queue ~= '' then
    redis.call('ZADD', fetch_queue, current, id .. '-fetch')
    redis.call('SADD', DELIVERY_QUEUES, fetch_queue)
end
return 1

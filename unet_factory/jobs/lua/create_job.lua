-- Records a queued job. ARGV: id, expires, owner, queue of its fetch or '', field, value, ...
-- The memory limit of the server refuses this, so that it never has to refuse what was accepted.
--@include keys
--@include now
local id, expires, owner, fetch_queue = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
redis.call('HSET', job_key(id), unpack(ARGV, 5))
redis.call('ZADD', ACTIVE, now(), id)
redis.call('ZADD', EXPIRY, expires, id)
if owner ~= '' then redis.call('ZADD', owner_key(owner), now(), id) end
if fetch_queue ~= '' then
    redis.call('ZADD', fetch_queue, now(), id .. '-fetch')
    redis.call('SADD', DELIVERY_QUEUES, fetch_queue)
end

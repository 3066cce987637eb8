#!lua flags=allow-oom
-- ARGV: id, seconds. Keeps a job for at least so long from now.
--@include keys
--@include now
local id, until_then = ARGV[1], now() + ARGV[2]
local expires = redis.call('HGET', job_key(id), 'expires')
if not expires or tonumber(expires) >= until_then then return 0 end
redis.call('HSET', job_key(id), 'expires', until_then)
redis.call('ZADD', EXPIRY, 'XX', until_then, id)
return 1

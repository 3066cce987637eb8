#!lua flags=allow-oom
-- KEYS: queue. ARGV: id, owner, lease in ms. Returns 1 while the owner still holds it.
--@include keys
--@include now
local id, owner, lease_ms = ARGV[1], ARGV[2], ARGV[3]
if redis.call('GET', delivery_lease_key(id)) ~= owner then return 0 end
redis.call('ZADD', KEYS[1], 'XX', now() + lease_ms / 1000, id)
return redis.call('PEXPIRE', delivery_lease_key(id), lease_ms)

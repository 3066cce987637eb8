-- A place among an owner's jobs. ARGV: owner, id, how many are allowed, seconds after which a place without a job is void.
--@include keys
--@include now
--@include states
local owner, id, allowed, void_after_s = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
for _, taken in ipairs(redis.call('ZRANGEBYSCORE', owner_key(owner), '-inf', now() - void_after_s)) do
    if not is_open(state_of(taken)) then redis.call('ZREM', owner_key(owner), taken) end
end
if redis.call('ZCARD', owner_key(owner)) >= allowed then return 0 end
redis.call('ZADD', owner_key(owner), now(), id)
return 1

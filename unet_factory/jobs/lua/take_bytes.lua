-- ARGV: owner, what they are for, bytes, how many the owner is allowed (0: any number). Returns 1 when they were added.
--@include keys
--@include stored_bytes
local owner, item, bytes, allowed = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if allowed > 0 and bytes > 0 and stored_bytes(owner) + bytes > allowed then return 0 end
redis.call('HINCRBY', stored_key(owner), item, bytes)
return 1

-- A place for an ordered network. KEYS: hash of those being made (network -> "ends owner"), sorted set of the networks that
-- the owner ordered. ARGV: network, owner ("": nobody), places of an owner, places in all (0: any number), seconds after
-- which a place is void, how many networks of the owner's the cache may hold (0: any number),
-- seconds that the cache holds a network.
-- Returns "owner" or "all" where those places are taken; else "" and the owner's networks that the cache is to drop.
--@include now
local being_made, of_owner = KEYS[1], KEYS[2]
local network, owner, places, in_all = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local lasts_s, share = tonumber(ARGV[5]), tonumber(ARGV[6])
local all, own = 0, 0
local entries = redis.call('HGETALL', being_made)
for i = 1, #entries, 2 do
    local ends, who = string.match(entries[i + 1], '^(%S+) (.*)$')
    if tonumber(ends) < now() then
        redis.call('HDEL', being_made, entries[i])
    elseif entries[i] ~= network then
        all = all + 1
        if who == owner then own = own + 1 end
    end
end
if owner ~= '' and places > 0 and own >= places then return {'owner'} end
if in_all > 0 and all >= in_all then return {'all'} end
redis.call('HSET', being_made, network, (now() + lasts_s) .. ' ' .. owner)
if owner == '' or share == 0 then return {''} end
redis.call('ZADD', of_owner, now(), network)
redis.call('EXPIRE', of_owner, ARGV[7])
local answer = {''}
local excess = redis.call('ZCARD', of_owner) - share
if excess > 0 then
    local oldest = redis.call('ZPOPMIN', of_owner, excess)
    for i = 1, #oldest, 2 do answer[#answer + 1] = oldest[i] end
end
return answer

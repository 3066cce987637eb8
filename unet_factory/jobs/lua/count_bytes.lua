#!lua flags=allow-oom
-- ARGV: id, bytes. What a job that is still here takes up now.
--@include keys
local id, bytes = ARGV[1], ARGV[2]
local owner = redis.call('HGET', job_key(id), 'owner')
if owner and owner ~= '' then redis.call('HSET', stored_key(owner), id, bytes) end

-- The deliveries of a job's hash, its fetch among them: {id, name, delivery} each. Needs: keys.
local function deliveries_of(job_id)
    local found, fields = {}, redis.call('HGETALL', job_key(job_id))
    for i = 1, #fields, 2 do
        local name = delivery_name(fields[i])
        if name then
            found[#found + 1] = {id = job_id .. '-' .. name, name = name, delivery = cjson.decode(fields[i + 1])}
        end
    end
    return found
end

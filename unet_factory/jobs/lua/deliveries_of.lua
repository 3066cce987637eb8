-- The deliveries of a job with these fields, its fetch among them: {id, name, delivery} each. Needs: keys.
local function deliveries_of(job_id, fields)
    local found = {}
    for i = 1, #fields, 2 do
        local name = delivery_name(fields[i])
        if name then
            found[#found + 1] = {id = job_id .. '-' .. name, name = name, delivery = cjson.decode(fields[i + 1])}
        end
    end
    return found
end

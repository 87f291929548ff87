-- Note that the user has cancelled every run with this id.
-- KEYS: runs
-- ARGV: run id
-- Answer: the channels of those that hold them
local fields = redis.call('HGETALL', KEYS[1])
local channels = {}
for i = 1, #fields, 2 do
  local id = string.match(fields[i], '^(.*)%.r$')
  if id and fields[i + 1] == ARGV[1] then
    redis.call('HSET', KEYS[1], id .. '.c', '1')
    channels[#channels + 1] = redis.call('HGET', KEYS[1], id .. '.h') or ''
  end
end
return channels

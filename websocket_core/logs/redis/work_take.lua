-- Give a worker items: those whose lease has ended, and those that nobody has yet.
-- KEYS: stream
-- ARGV: group, worker, most, lease ms, most bytes of one, and the keys of what this worker is running
-- Answer: items as {key, attempt, fields}; instead of the fields, what is larger has how large it is
if redis.replicate_commands then redis.replicate_commands() end
local stream, group, worker = KEYS[1], ARGV[1], ARGV[2]
local most, lease, most_bytes = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local taken = {}

local function give(entry, attempt)
  local size = 0
  for _, part in ipairs(entry[2]) do size = size + #part end
  taken[#taken + 1] = {entry[1], attempt, size > most_bytes and size or entry[2]}
end

if redis.call('EXISTS', stream) == 0 then return taken end
local found = redis.pcall('XPENDING', stream, group)
if found.err then
  if not string.find(found.err, 'NOGROUP', 1, true) then return found end
  redis.call('XGROUP', 'CREATE', stream, group, '0')
  found = {0}
end

if found[1] > 0 then
  local running = {}
  for i = 6, #ARGV do running[ARGV[i]] = true end
  for _, held in ipairs(redis.call('XPENDING', stream, group, 'IDLE', lease, '-', '+', most + #ARGV - 5)) do
    if #taken < most and not running[held[1]] then
      local entry = redis.call('XCLAIM', stream, group, worker, lease, held[1])[1]
      if entry then
        give(entry, held[4] + 1)
      else -- somebody else has deleted it
        redis.call('XACK', stream, group, held[1])
      end
    end
  end
end
if #taken < most then
  local fresh = redis.call('XREADGROUP', 'GROUP', group, worker, 'COUNT', most - #taken, 'STREAMS', stream, '>')
  if fresh then
    for _, entry in ipairs(fresh[1][2]) do give(entry, 1) end
  end
end
return taken

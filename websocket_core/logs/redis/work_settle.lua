-- End a worker's hold of an item.
-- KEYS: stream, ids, owners, dead letters, what is none of ours
-- ARGV: group, worker, key, outcome, attempt, ms that it counts as idle from now on, most dead letters, channel,
--       most foreign entries, most bytes of one that is kept
-- Answer: 1, or 0 if the worker does not hold it any more
if redis.replicate_commands then redis.replicate_commands() end
local stream, group, worker, key, outcome = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local held = redis.pcall('XPENDING', stream, group, key, key, 1)
if held.err or not held[1] or held[1][2] ~= worker then return 0 end

if outcome == 'again' then
  redis.call('XCLAIM', stream, group, worker, 0, key, 'IDLE', ARGV[6], 'JUSTID')
  return 1
elseif outcome == 'back' then
  redis.call('XCLAIM', stream, group, worker, 0, key, 'IDLE', ARGV[6], 'RETRYCOUNT', ARGV[5] - 1, 'JUSTID')
  redis.call('PUBLISH', ARGV[8], '')
  return 1
end

local entry = redis.call('XRANGE', stream, key, key)[1]
if outcome == 'foreign' then
  local fields, size = entry and entry[2] or {}, 0
  for _, part in ipairs(fields) do size = size + #part end
  if size > tonumber(ARGV[10]) or #fields > 64 then fields = {} end
  redis.call('XADD', KEYS[5], 'MAXLEN', ARGV[9], '*', 'key', key, 'bytes', size, unpack(fields))
elseif entry then
  local fields = entry[2]
  if outcome == 'dead' then
    redis.call('XADD', KEYS[4], 'MAXLEN', ARGV[7], '*', 's', key, 'a', ARGV[5], unpack(fields))
  end
  local owner, id
  for i = 1, #fields, 2 do
    if fields[i] == 'n' then owner = fields[i + 1] elseif fields[i] == 'i' then id = fields[i + 1] end
  end
  local time = redis.call('TIME')
  redis.call('ZADD', KEYS[2], string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)),
    #owner .. ':' .. owner .. id)
  if redis.call('HINCRBY', KEYS[3], owner, -1) <= 0 then redis.call('HDEL', KEYS[3], owner) end
end
redis.call('XACK', stream, group, key)
redis.call('XDEL', stream, key)
return 1

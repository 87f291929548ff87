-- The head of a log; makes the log, and with it an epoch, if there is none.
-- KEYS: meta, entries, ids
-- ARGV: epoch if there is none, head ms
-- Answer: epoch, offset and mark with spaces between
local known = redis.call('HGET', KEYS[1], 's')
if not known or #known ~= 56 or string.match(known, '^[%w_-]+ *()') ~= 17 or struct.unpack('>d', known, 17) % 1 ~= 0 then
  known = struct.pack('>c8c8ddddd', ARGV[1], '        ', 0, 0, 1, 0, 0) -- as append.lua says
  redis.call('HSET', KEYS[1], 's', known) -- first: a server that is full refuses it
  redis.call('HDEL', KEYS[1], 'c')
  redis.call('DEL', KEYS[2], KEYS[3])
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local epoch, mark, head = struct.unpack('>c8c8d', known)
return epoch .. ' ' .. string.format('%d', head) .. ' ' .. string.match(mark, '^%S*')

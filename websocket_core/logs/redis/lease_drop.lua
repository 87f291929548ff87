-- Forget runs of a user, with the approvals that they waited for.
-- KEYS: runs
-- ARGV: lease ids
local gone = {}
for _, id in ipairs(ARGV) do gone[id] = true end
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local field = fields[i]
  local id
  if string.sub(field, 1, 2) == 'a.' then
    id = string.match(fields[i + 1], '^([^\n]*)\n')
  else
    id = string.match(field, '^(.*)%..$')
  end
  if id and gone[id] then redis.call('HDEL', KEYS[1], field) end
end
return 1

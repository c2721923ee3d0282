# Who the agents are: names, numbers, addresses, and the person.
kit: cfg:

let
  inherit (kit) at each option quote rule unless;
  inherit (builtins) attrNames filter head toString;
  agents = kit.enabled cfg;
  names = attrNames agents;
  others = name: filter (other: other != name) names;
  having = found: name: filter (other: found agents.${other}) (others name);
  # Without an account there is no person to speak of.
  person = key: check:
    if cfg.humanUser == null || cfg.${key} == null then null else at "nuketown.${key}" (check cfg.${key});
  range = "outside of 1000 to 60000: choose a number in between, which no account has";
in
[
  (rule "some agent" [
    (unless (names != [ ]) "nuketown.agents: no agent is enabled: enable one, or set nuketown.enable = false")
  ])

  (rule "names" (map (name: at "nuketown.agents.${name}" (kit.agentName name)) names))

  (rule "uids" (each cfg (name: agent:
    at (option name "uid") (unless (kit.within 1000 60000 agent.uid) "${toString agent.uid} is ${range}"))))

  (rule "gids" (each cfg (name: agent:
    at (option name "gid") (unless (agent.gid == agent.uid || kit.within 1000 60000 agent.gid)
      "${toString agent.gid} is ${range}"))))

  (rule "one uid is one agent" (each cfg (name: agent:
    let
      same = having (other: other.uid == agent.uid) name;
    in
    at (option name "uid") (unless (same == [ ])
      ("${toString agent.uid} is that of ${kit.joined same} too, who would own its files: "
        + "give each a number of its own")))))

  (rule "one gid is one group" (each cfg (name: agent:
    let
      same = having (other: other.gid == agent.gid || other.uid == agent.gid) name;
    in
    at (option name "gid") (unless (same == [ ])
      "${toString agent.gid} is a number of ${kit.joined same} too: leave gid out, and share a group by extraGroups"))))

  (rule "the person is no agent" (each cfg (name: _:
    at "nuketown.humanUser" (unless (cfg.humanUser != name)
      "${quote name} is an agent too, and would be locked out: choose another name for the agent"))))

  (rule "the person" [
    (person "humanUser" kit.unixName)
    (person "humanName" kit.personName)
    (person "humanEmail" kit.email)
  ])

  (rule "who asks for root has a person to ask" [
    (
      let
        asking = filter (name: agents.${name}.sudo.enable) names;
      in
      unless (asking == [ ] || cfg.humanUser != null)
        ("nuketown.humanUser: nobody could approve what ${kit.joined asking} may ask for (sudo.enable): "
          + "name the person's account, or set nuketown.agents.${head asking}.sudo.enable = false")
    )
  ])

  (rule "domain" [ (at "nuketown.domain" (kit.domain cfg.domain)) ])
  (rule "roles" (each cfg (name: agent: at (option name "role") (kit.word agent.role))))
  (rule "descriptions" (each cfg (name: agent: at (option name "description") (kit.prose agent.description))))
  (rule "git names" (each cfg (name: agent: at (option name "git.name") (kit.personName agent.git.name))))
  (rule "git addresses" (each cfg (name: agent: at (option name "git.email") (kit.email agent.git.email))))

  (rule "quotas" (each cfg (name: agent:
    if agent.quota == null then null else at (option name "quota") (kit.quota agent.quota))))
]

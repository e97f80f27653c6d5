import pytest
from tests.small import Small, end, forward, said

def test_x(tmp_path, postgres_server, mongo_server):
    import time
    t=time.time()
    s=Small(tmp_path/"s", "r1", postgres=postgres_server, mongo=mongo_server)
    print("made", time.time()-t); t=time.time()
    before=s.fingerprint()
    s.back_up(); print("backup", time.time()-t); t=time.time()
    s.disaster()
    run=s.restore()
    forward(s,run); print("restored", time.time()-t); t=time.time()
    r=end(run); print(r); assert r==""
    print("end", time.time()-t); t=time.time()
    assert s.fingerprint()==before
    print(s.leftovers(), s.services)
    for e in run.journal.entries(): print(e.step,e.source)
    s.drop()

